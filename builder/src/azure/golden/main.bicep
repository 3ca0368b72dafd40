// factory: gallery, image version and a VM.
// Written by edgepress azure; azuredeploy.json says the same.
targetScope = 'resourceGroup'

@description('Where everything is made.')
param location string = resourceGroup().location

@description('The managed disk that upload.sh made of the VHD.')
param diskName string = 'factory-2026-1122-732-e1200af4'

@description('The gallery.')
param galleryName string = 'factory_images'

@description('The image definition in the gallery.')
param imageName string = 'factory'

@description('The version of the image: three numbers.')
param imageVersion string = '2026.1122.732'

@description('The VM, and its host name: letters, digits and hyphens.')
param vmName string = 'factory-1'

@description('The VM\'s size; of the image\'s architecture.')
param vmSize string = 'Standard_B2s_v2'

@description('Size of the VM\'s disk; the root grows to it at first boot.')
param osDiskSizeGB int = 32

@description('The account that cloud-init makes.')
param adminUsername string = 'azureuser'

@description('Its public key, in OpenSSH\'s form. There is no password.')
param sshPublicKey string

@description('The addresses, like 10.60.1.0/26, that may open SSH to the VMs. Empty: none.')
param bastionPrefix string = ''

@description('The key vault with the devices\' certificates, in this resource group.')
param vaultName string = 'factory-keys'

@description('The VM\'s own secret in it: certificate and key.')
param secretName string = 'edge-${vmName}'

@description('The secret in it that is the password for the registry of edgeAgent\'s image.')
param registrySecretName string = 'registry'

// What upload.sh made
resource disk 'Microsoft.Compute/disks@2024-03-02' existing = {
  name: diskName
}

// Holds images and their versions
resource gallery 'Microsoft.Compute/galleries@2024-03-03' = {
  name: galleryName
  location: location
  properties: {
    description: 'Images made by edgepress'
  }
}

// What all versions of this image have in common
resource definition 'Microsoft.Compute/galleries/images@2024-03-03' = {
  parent: gallery
  name: imageName
  location: location
  properties: {
    description: 'A factory\'s gateways'
    osType: 'Linux'
    osState: 'Generalized'
    hyperVGeneration: 'V2'
    architecture: 'x64'
    identifier: {
      publisher: 'edgepress'
      offer: 'edgepress'
      sku: 'factory'
    }
    features: [
      {
        name: 'SecurityType'
        value: 'TrustedLaunchSupported'
      }
    ]
  }
}

// This image, in this region alone
resource version 'Microsoft.Compute/galleries/images/versions@2024-03-03' = {
  parent: definition
  name: imageVersion
  location: location
  properties: {
    publishingProfile: {
      replicaCount: 1
      storageAccountType: 'Standard_LRS'
      targetRegions: [
        {
          name: location
          regionalReplicaCount: 1
        }
      ]
    }
    storageProfile: {
      osDiskImage: {
        source: {
          id: disk.id
        }
        hostCaching: 'ReadOnly'
      }
    }
  }
}

// No way in, but for a bastion
resource guard 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: 'edgepress-guard'
  location: location
  properties: {
    securityRules: [
      {
        name: 'ssh'
        properties: {
          description: 'From bastionPrefix; from nowhere while that is empty'
          direction: 'Inbound'
          access: empty(bastionPrefix) ? 'Deny' : 'Allow'
          priority: 100
          protocol: 'Tcp'
          sourceAddressPrefix: empty(bastionPrefix) ? '*' : bastionPrefix
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '22'
        }
      }
      {
        name: 'nothing-in'
        properties: {
          description: 'A device calls; nobody calls it'
          direction: 'Inbound'
          access: 'Deny'
          priority: 4096
          protocol: '*'
          sourceAddressPrefix: '*'
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '*'
        }
      }
    ]
  }
}

// The address that devices are seen with; of the gateway, not of a VM
resource address 'Microsoft.Network/publicIPAddresses@2024-05-01' = {
  name: 'edgepress-out'
  location: location
  sku: {
    name: 'Standard'
  }
  properties: {
    publicIPAllocationMethod: 'Static'
  }
}

// The way out: new networks have none of their own
resource out 'Microsoft.Network/natGateways@2024-05-01' = {
  name: 'edgepress-nat'
  location: location
  sku: {
    name: 'Standard'
  }
  properties: {
    publicIpAddresses: [
      {
        id: address.id
      }
    ]
    idleTimeoutInMinutes: 10
  }
}

// Apart from docker's own 172.17.0.0/16. Subnets that it has besides stay
resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: 'edgepress-network'
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: [
        '10.60.0.0/16'
      ]
    }
  }
}

// The devices' own
resource subnet 'Microsoft.Network/virtualNetworks/subnets@2024-05-01' = {
  parent: network
  name: 'devices'
  properties: {
    addressPrefix: '10.60.0.0/24'
    defaultOutboundAccess: false
    networkSecurityGroup: {
      id: guard.id
    }
    natGateway: {
      id: out.id
    }
  }
}

// The VM's only one; no public address
resource adapter 'Microsoft.Network/networkInterfaces@2024-05-01' = {
  name: '${vmName}-nic'
  location: location
  properties: {
    ipConfigurations: [
      {
        name: 'private'
        properties: {
          privateIPAllocationMethod: 'Dynamic'
          subnet: {
            id: subnet.id
          }
        }
      }
    ]
  }
}

// The device
resource machine 'Microsoft.Compute/virtualMachines@2024-07-01' = {
  name: vmName
  location: location
  identity: {
    type: 'SystemAssigned'
  }
  properties: {
    hardwareProfile: {
      vmSize: vmSize
    }
    storageProfile: {
      imageReference: {
        id: version.id
      }
      osDisk: {
        createOption: 'FromImage'
        caching: 'ReadWrite'
        diskSizeGB: osDiskSizeGB
        managedDisk: {
          storageAccountType: 'StandardSSD_LRS'
        }
        deleteOption: 'Delete'
      }
    }
    osProfile: {
      computerName: vmName
      adminUsername: adminUsername
      linuxConfiguration: {
        disablePasswordAuthentication: true
        provisionVMAgent: true
        ssh: {
          publicKeys: [
            {
              path: '/home/${adminUsername}/.ssh/authorized_keys'
              keyData: sshPublicKey
            }
          ]
        }
      }
    }
    networkProfile: {
      networkInterfaces: [
        {
          id: adapter.id
          properties: {
            primary: true
            deleteOption: 'Delete'
          }
        }
      ]
    }
    diagnosticsProfile: {
      bootDiagnostics: {
        enabled: true
      }
    }
    securityProfile: {
      securityType: 'TrustedLaunch'
      uefiSettings: {
        secureBootEnabled: true
        vTpmEnabled: true
      }
    }
  }
}

// The VM may read its own secret, and no other's. It asks again until that counts, which takes minutes
module access 'vault-access.bicep' = {
  name: 'vault-access-${guid(machine.id)}'
  params: {
    vaultName: vaultName
    secretName: secretName
    principalId: machine.identity.principalId
  }
}

// And the password for the registry of edgeAgent's image. It asks again until that counts, which takes minutes
module registryAccess 'vault-access.bicep' = {
  name: 'registry-access-${guid(machine.id)}'
  params: {
    vaultName: vaultName
    secretName: registrySecretName
    principalId: machine.identity.principalId
  }
}

output imageVersionId string = version.id
output principalId string = machine.identity.principalId
